"""The parts that the dashboards are made of, in the form of Grafana's dashboard JSON (schema version 41)."""

import re

SCHEMA_VERSION = 41
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24

# A share of nothing.
NOT_A_NUMBER = {"type": "special", "options": {"match": "nan", "result": {"text": "–", "index": 0}}}

# Quantiles that are shown of every histogram of times.
QUANTILES = (0.5, 0.95, 0.99)


def query(expr, legend="", **fields):
    """A target; its refId comes with the panel. fields: instant, format."""
    instant = fields.get("instant", False)
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expr,
        "legendFormat": legend or "__auto",
        "instant": instant,
        "range": not instant,
        "format": fields.get("format", "time_series"),
    }


def quantiles(metric, selector, by="", quantities=QUANTILES):
    """Queries of a histogram's quantiles, over all that `by` (with a comma at its end) does not name."""
    label = "".join(f"{{{{{name}}}}} " for name in by.split(",") if name)
    return [
        query(
            f"histogram_quantile({q}, sum by ({by}le) (rate({metric}_bucket{{{selector}}}[$__rate_interval])))",
            f"{label}p{round(q * 100)}",
        )
        for q in quantities
    ]


def thresholds(*limits):
    """Green, and from each limit on orange, red."""
    steps = [{"color": "green", "value": None}]
    steps += [{"color": color, "value": value} for color, value in zip(("orange", "red"), limits)]
    return {"mode": "absolute", "steps": steps}


def panel(kind, title, description, queries, unit, **fields):
    """fields: w, h (grid units), limits (thresholds), decimals, low, high, custom, options, overrides, transformations,
    color, mappings."""
    queries = queries if isinstance(queries, list) else [queries]
    defaults = {
        "unit": unit,
        "thresholds": thresholds(*fields.get("limits", ())),
        "mappings": fields.get("mappings", [NOT_A_NUMBER]),
        "color": {"mode": fields.get("color", "palette-classic")},
        "custom": fields.get("custom", {}),
    }
    for name, key in (("decimals", "decimals"), ("low", "min"), ("high", "max")):
        if name in fields:
            defaults[key] = fields[name]
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": [{"refId": chr(ord("A") + i), **target} for i, target in enumerate(queries)],
        "fieldConfig": {"defaults": defaults, "overrides": fields.get("overrides", [])},
        "options": fields.get("options", {}),
        "transformations": fields.get("transformations", []),
        "gridPos": {"w": fields.get("w", 8), "h": fields.get("h", 8)},
    }


def lines(title, description, queries, unit, **fields):
    """Values over time. stack: one upon the other."""
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "showPoints": "auto",
        "spanNulls": False,
        "fillOpacity": 30 if fields.get("stack") else 8,
        "stacking": {"mode": "normal" if fields.get("stack") else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if fields.get("limits") else "off"},
    }
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel(
        "timeseries", title, description, queries, unit, **{"custom": custom, "options": options, "low": 0, **fields}
    )


def number(title, description, expr, unit, **fields):
    """The latest value, large."""
    options = {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "textMode": "auto",
        "orientation": "auto",
        "wideLayout": True,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return panel(
        "stat",
        title,
        description,
        query(expr, fields.pop("legend", "")),
        unit,
        **{"w": 4, "h": 4, "options": options, "color": "thresholds", **fields},
    )


def bars(title, description, expr, legend, unit, **fields):
    """The latest values side by side."""
    options = {
        "displayMode": "gradient",
        "orientation": "horizontal",
        "valueMode": "color",
        "showUnfilled": True,
        "minVizWidth": 8,
        "minVizHeight": 10,
        "namePlacement": "left",
        "sizing": "auto",
        "maxVizHeight": 24,
        "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return panel(
        "bargauge",
        title,
        description,
        query(expr, legend, instant=True),
        unit,
        **{"options": options, "color": "thresholds", "low": 0, **fields},
    )


def heat(title, description, expr, legend, unit, **fields):
    """Colour by time and row: buckets of a histogram (buckets=True), or one row for each series."""
    buckets = fields.pop("buckets", False)
    options = {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": fields.pop("cell_unit", "short")},
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "steps": 64,
            "fill": "dark-orange",
            "exponent": 0.5,
            "reverse": False,
            "scale": "exponential",
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "showColorScale": True, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "unit": unit, "reverse": False},
    }
    return panel(
        "heatmap",
        title,
        description,
        query(expr, legend, format="heatmap" if buckets else "time_series"),
        unit,
        **{"options": options, "custom": {"scaleDistribution": {"type": "linear"}}, **fields},
    )


def table(title, description, queries, unit, transformations, **fields):
    """Rows of labels and values, from queries that are made once."""
    options = {
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": ["sum"], "countRows": False},
    }
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False, "minWidth": 50}
    return panel(
        "table",
        title,
        description,
        queries,
        unit,
        **{"options": options, "custom": custom, "color": "thresholds", "transformations": transformations, **fields},
    )


def variable(name, label, values_of, sort=1):
    """A choice of the values of a label, `label_values(...)`. All of them matches series without the label too."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"qryType": 1, "query": values_of, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "refresh": 2,
        "sort": sort,
        "regex": "",
        "hide": 0,
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
    }


def marks(name, expr, color, title, text):
    """An annotation on all panels for each moment at which expr has a value."""
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "expr": expr,
        "step": "15s",
        "titleFormat": title,
        "textFormat": text,
        "useValueForTime": False,
    }


def dashboard(uid, title, description, variables, rows):
    """rows: {title: panels}; panels stand from left to right and wrap."""
    placed, y = [], 0
    for row_title, row_panels in rows.items():
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": row_title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
            }
        )
        y += 1
        x = height = 0
        for item in row_panels:
            width = item["gridPos"]["w"]
            if x + width > WIDTH:
                x, y, height = 0, y + height, 0
            placed.append({"id": len(placed) + 1, **item, "gridPos": {"x": x, "y": y, **item["gridPos"]}})
            x += width
            height = max(height, item["gridPos"]["h"])
        y += height
    source = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "regex": "",
        "current": {},
        "options": [],
        "refresh": 1,
        "hide": 0,
        "includeAll": False,
        "multi": False,
    }
    pool = variable("pool", "Pool", "label_values(moepool_pool_ready, pool)")
    annotations = [
        {
            "builtIn": 1,
            "datasource": {"type": "grafana", "uid": "-- Grafana --"},
            "enable": True,
            "hide": True,
            "iconColor": "rgba(0, 211, 255, 1)",
            "name": "Annotations & Alerts",
            "type": "dashboard",
        },
        marks(
            "Placements",
            'changes(moepool_placement_epoch{pool=~"$pool"}[1m]) > 0',
            "blue",
            "New placement in pool {{pool}}",
            "A worker joined, left or was lost",
        ),
        marks(
            "Alerts",
            'ALERTS{alertname=~"Moepool.+", alertstate="firing", severity!="info", pool=~"$pool"}',
            "red",
            "{{alertname}}",
            "{{severity}}, pool {{pool}}",
        ),
    ]
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["moepool"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "preload": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "moepool",
                "tags": ["moepool"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
                "url": "",
            }
        ],
        "annotations": {"list": annotations},
        "templating": {"list": [source, pool, *variables]},
        "panels": placed,
    }


def by_name(name, **properties):
    """An override of a column's or series' properties; __ stands for the dot in their ids."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": re.sub("__", ".", key), "value": value} for key, value in properties.items()],
    }
