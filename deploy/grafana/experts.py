"""The dashboard of the experts: which of them tokens visit, layer by layer."""

from panels import bars, by_name, dashboard, heat, lines, number, query, table, variable

P = 'pool=~"$pool"'
L = P + ', layer=~"$layer"'


def tokens(by, over="$__rate_interval"):
    return f"sum by ({by}) (rate(moepool_expert_tokens_total{{{L}}}[{over}]))"


def now():
    return [
        number(
            "Layers", "Layers with experts.", f"count(count by (layer) (moepool_expert_tokens_total{{{L}}}))", "none"
        ),
        number(
            "Experts",
            "Experts of all these layers.",
            f"count(count by (layer, expert) (moepool_expert_tokens_total{{{L}}}))",
            "none",
        ),
        number(
            "Visits a second",
            "Rows computed by experts: tokens, times the experts each visits, times layers.",
            f"sum(rate(moepool_expert_tokens_total{{{L}}}[$__rate_interval]))",
            "short",
        ),
        number(
            "Idle experts",
            "Share of the experts that no token visited in the time shown.",
            f"avg((sum by (layer, expert) (increase(moepool_expert_tokens_total{{{L}}}[$__range])) == bool 0))",
            "percentunit",
            limits=(0.25, 0.75),
        ),
        number(
            "Mean load ratio",
            "Rows of the busiest worker over the mean of all in the last minute, averaged over layers.",
            f"avg(moepool_layer_load_ratio{{{L}}})",
            "short",
            decimals=2,
            limits=(1.5, 2),
        ),
        number(
            "Worst layer",
            "The same of the layer where it is highest.",
            f"max(moepool_layer_load_ratio{{{L}}})",
            "short",
            decimals=2,
            limits=(1.75, 2.5),
        ),
    ]


def heat_map():
    cells = {"custom__cellOptions": {"type": "auto"}, "unit": "none", "custom__width": 60}
    return [
        table(
            "Tokens by layer and expert",
            "Rows that each expert computed in the time shown: layers down, experts across. Empty where the model has more experts than the router's --max-expert-series.",
            query(
                f"sum by (layer, expert) (increase(moepool_expert_tokens_total{{{L}}}[$__range]))",
                instant=True,
                format="table",
            ),
            "short",
            # Numbers first, so that 10 comes after 9; the second sort keeps the order of the first.
            [
                {
                    "id": "convertFieldType",
                    "options": {
                        "fields": {},
                        "conversions": [
                            {"targetField": "layer", "destinationType": "number"},
                            {"targetField": "expert", "destinationType": "number"},
                        ],
                    },
                },
                {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": "layer", "desc": False}]}},
                {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": "expert", "desc": False}]}},
                {
                    "id": "groupingToMatrix",
                    "options": {
                        "rowField": "layer",
                        "columnField": "expert",
                        "valueField": "Value",
                        "emptyValue": "zero",
                    },
                },
            ],
            w=24,
            h=16,
            decimals=0,
            color="continuous-YlRd",
            custom={
                "align": "center",
                "cellOptions": {"type": "color-background", "mode": "basic"},
                "inspect": False,
                "minWidth": 40,
                "filterable": False,
            },
            overrides=[by_name("layer\\expert", **cells)],
        )
    ]


def by_layer():
    return [
        heat(
            "Load ratio by layer, over time",
            "Rows of the busiest worker over the mean of all, a row for each layer.",
            # Rows stand in the order of their names, so 9 becomes 09.
            f'label_replace(max by (layer) (moepool_layer_load_ratio{{{L}}}), "layer", "0$1", "layer", "(.)")',
            "{{layer}}",
            "none",
            w=12,
            h=10,
        ),
        bars(
            "Load ratio by layer",
            "The same now. 1 is even; with N workers N is the worst.",
            f"max by (layer) (moepool_layer_load_ratio{{{L}}})",
            "layer {{layer}}",
            "short",
            w=6,
            h=10,
            decimals=2,
            limits=(1.5, 2),
        ),
        bars(
            "Busiest expert of a layer",
            "Rows of a layer's busiest expert over the mean of its experts, in the last five " "minutes.",
            f"max by (layer) ({tokens('layer, expert', '5m')}) / avg by (layer) ({tokens('layer, expert', '5m')})",
            "layer {{layer}}",
            "short",
            w=6,
            h=10,
            decimals=1,
            limits=(4, 8),
        ),
    ]


def by_expert():
    return [
        bars(
            "Busiest experts",
            "The twenty experts that compute most rows, in the last five minutes.",
            f"topk(20, {tokens('layer, expert', '5m')})",
            "layer {{layer}} expert {{expert}}",
            "ops",
            h=12,
        ),
        bars(
            "Tokens by expert number",
            "Rows of the experts of the same number in all layers, in the last five minutes. Workers "
            "hold contiguous ranges of these numbers.",
            f"sort_desc({tokens('expert', '5m')})",
            "expert {{expert}}",
            "ops",
            h=12,
        ),
        lines(
            "Rows by layer",
            "Rows computed by experts of each layer. All layers see every token, so these are alike.",
            query(tokens("layer"), "layer {{layer}}"),
            "ops",
            h=12,
        ),
    ]


def make():
    layer = variable("layer", "Layer", 'label_values(moepool_layer_load_ratio{pool=~"$pool"}, layer)', sort=3)
    return dashboard(
        "moepool-experts",
        "moepool / Experts",
        "Which experts tokens visit, layer by layer.",
        [layer],
        {"Now": now(), "Heat map": heat_map(), "By layer": by_layer(), "By expert": by_expert()},
    )
