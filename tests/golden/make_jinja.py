"""Writes jinja_cases.json: small templates and what Jinja2 makes of them, in the environment in which transformers
renders chat templates. Needs jinja2 (3.1):  python make_jinja.py > jinja_cases.json"""
import json
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    """{% generation %}: renders its body, as a call block does."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.globals["raise_exception"] = raise_exception
    env.filters["tojson"] = tojson
    return env


V = {
    "x": 5, "y": -3, "f": 2.5, "s": "Hello, World", "u": "héllo 世界 🎉", "empty": "", "none": None, "t": True,
    "l": [3, 1, 2], "words": ["banana", "Apple", "cherry"], "d": {"b": 1, "a": [1, {"c": None}], "items": "mine"},
    "users": [{"name": "Bo", "age": 30, "g": "x"}, {"name": "al", "age": 25, "g": "y"}, {"name": "Cy", "age": 30, "g": "x"}],
    "messages": [{"role": "system", "content": "Be  brief. "}, {"role": "user", "content": "Hi {{ x }} {% raw %}"},
                 {"role": "assistant", "content": "你好 👋🏽"}],
    "tree": [{"n": 1, "kids": [{"n": 2, "kids": []}, {"n": 3, "kids": [{"n": 4, "kids": []}]}]}, {"n": 5, "kids": []}],
    "tool": {"type": "function", "function": {"name": "get", "parameters": {"z": 1.0, "a": ["<b>", "it's", "\"q\"\n"]}}},
    "html": "<a href=\"x\">'&'</a>",
}

EXPRESSIONS = r"""
1 | -1 | 1_000 | 0x1F | 0b101 | 0o17 | 1.5 | 1e3 | 1.5e-7 | 1e16 | 1e22 | 123456789012345678.0 | 0.1+0.2 | 100.0 | 1e-5
'a' 'b' "c" | 'it\'s' | "\u4f60\x41\n\t\\" | '\101' | '\q' | 'tab\there' | "a\
b"
[1, 'a', none, true, 2.0] | [] | [1,] | (1,) | () | (1, 2) | 1, 2 | {} | {'a': 1, "b": [2]} | {1: 2, none: 3} | {'a': {'b': {}}}
x + 2 | x - 8 | x * 2 | x / 2 | 7 // 2 | -7 // 2 | 7 // -2 | 7 % 3 | -7 % 3 | 7 % -3 | 2 ** 10 | 2 ** -1 | -2 ** 2 | 2 ** 3 ** 2
7.5 // 2 | -7.5 % 2 | 1 + 2 * 3 - 4 / 2 | (1 + 2) * 3 | true + true | 4 / 2 | 10 // 3.0 | +x | - - x | 5.0 // 0.3
'a' + 'b' | 'ab' * 3 | 3 * 'ab' | [1] * 3 | [1] + [2] | (1,) + (2,) | 'a' ~ 1 ~ none ~ true ~ 1.0 | 1 ~ 2 | x ~ undefined_thing
x == 5 | x != 5 | 1 == 1.0 | 1 == true | 'a' == 'b' | [1] == [1] | {'a':1} == {'a':1.0} | none == false | (1,2) == [1,2] | undefined_a == undefined_b
1 < 2 < 3 | 1 < 3 < 2 | 'a' < 'b' | [1,2] < [1,3] | 3 >= 3 == true | x > y | 2 <= 1
1 in l | 9 in l | 'lo' in s | 'a' in d | 'z' not in d | 'x' in undefined_thing | 1 not in l and true | '' in s | 2 in (1,2)
true and 0 | 0 or 'x' | not x | not not x | none or [] or 'z' | 1 and 2 or 3 | not true == false | not 1 in l
'a' if t else 'b' | 'a' if not t | 'a' if 0 else 'b' if 0 else 'c' | (1 if t else 2) + 3 | [1 if t else 2, 3]
s[0] | s[-1] | s[1:4] | s[::-1] | s[-5:] | s[:-7] | s[::2] | s[100] | s[5:2] | s[10:1:-2] | s[:100] | l[0] | l[-1] | l[1:] | l[::-1] | l[:2][0] | l[7]
u[1] | u[6:8] | u[-1] | u[::-1] | u | length | u[7:] | u | list | u.find('界') | u.upper() | u | title | u.split(' ')
d.b | d['b'] | d.a[1].c | d['a'][0] | d['items'] | d.nope | d['nope'] | d.get('b') | d.get('q') | d.get('q', 7) | l.0 | tool.function.name
d.keys() | d.values() | d.items() | d.keys() | list | d.copy() | d.keys() | length | d.items() | list | d.pop | l.append | d.update is defined | d | length
s.strip() | '  a '.strip() | '  a '.lstrip() ~ '|' | '  a '.rstrip() ~ '|' | 'xxaxx'.strip('x') | 'abcba'.strip('ab') | '\u3000a\u00a0'.strip()
'a,b,c'.split(',') | 'a,b,c'.split(',', 1) | ' a  b '.split() | ' a  b c '.split(none, 1) | 'a,b,c'.rsplit(',', 1) | ' a b  c '.rsplit(none, 1) | ''.split() | ''.split(',') | 'a\nb\r\nc\n'.splitlines() | 'a\nb'.splitlines(true)
s.startswith('He') | s.startswith(('x', 'He')) | s.endswith('d') | s.startswith('l', 2) | s.upper() | s.lower() | "they're here".title() | 'ABC def'.capitalize() | 'aBc'.swapcase()
s.replace('l', 'L') | s.replace('l', 'L', 1) | 'ab'.replace('', '-') | s.find('o') | s.find('o', 5) | s.rfind('o') | s.find('zz') | s.count('l') | s.index('W') | 'aaa'.count('') | u.rfind('世')
'-'.join(['a', 'b']) | ''.join(words) | 'ab'.join('xyz') | '{} {}'.format(1, 'a') | '{1}{0}'.format(1, 2) | '{a:>5}|{b:<4}|{c:^6}'.format(a=1, b='x', c='mid') | '{:.2f} {:05d} {:,} {:x} {:+d} {:%}'.format(3.14159, 42, 1234567, 255, 5, 0.25) | '{{}}'.format() | '{!r}'.format('a')
'prefix-x'.removeprefix('prefix-') | 'x.txt'.removesuffix('.txt') | '123'.isdigit() | '12a'.isdigit() | 'abc'.isalpha() | ' '.isspace() | 'A'.isupper() | 'a1'.isalnum() | ''.isdigit() | 'a'.islower() | '²'.isdigit() | '²'.isdecimal()
'a-b-c'.partition('-') | 'a-b-c'.rpartition('-') | 'abc'.partition('-') | 'abc'.rpartition('-') | 'ab'.center(6) ~ '|' | 'ab'.center(7, '*') | 'a'.center(4, '*') | 'ab'.ljust(4) ~ '|' | 'ab'.rjust(4) | '-5'.zfill(4) | '7'.zfill(3)
l.index(2) | l.count(3) | (1,2,2).count(2) | l.copy() | range(5) | range(5) | list | range(2, 8, 2) | list | range(5, 0, -2) | list | range(0) | list | range(1, 5)[1] | range(1, 10, 3)
dict(a=1, b=2) | dict([('a', 1)]) | dict({'q': 1}, r=2) | namespace(a=1).a | namespace({'z': 3}).z | namespace(a=1).b | namespace(a='q')
"%s is %d" % ('a', 5) | "%5.2f|%-5s|%05d|%x|%r|%%" % (3.14159, 'ab', 42, 255, 'q') | "%s" % 'x' | "%(a)s" % {'a': 1} | "%s" % [1] | "%e" % 12345.678 | "%g" % 0.0001 | "%+d" % 3
"""

FILTERS = r"""
'  a b '|trim | 'xxaxx'|trim('x') | s|upper | s|lower | 'hello wORLD-foo (bar)'|title | 'hELLO'|capitalize | s|replace('l', 'L') | s|replace('l', 'L', 1) | 5|replace(5, 6) | 'ß'|upper | 'ÀÉÎ'|lower
none|tojson | true|tojson | 1.0|tojson | 'é"\n\u0001/<>&\''|tojson | [1, [2, {'a': none}]]|tojson | tool|tojson | tool|tojson(indent=2) | {}|tojson(indent=2) | []|tojson(indent=4) | tool|tojson(separators=(',', ':')) | tool|tojson(sort_keys=true) | u|tojson(ensure_ascii=true) | (1, 2)|tojson | {1: 'a', none: 2, true: 3}|tojson | 1e100|tojson | tool|tojson(indent=1, sort_keys=true) | u|tojson | [1]|tojson(indent='--')
l|join(', ') | [1, none, true]|join | users|join(', ', attribute='name') | 'abc'|join('-') | []|join('x') | d|join(',') | undefined_thing|join(',')
s|length | l|count | d|length | ''|length | undefined_thing|length | l|list | 'abc'|list | d|list | (1,2)|list | users|map(attribute='name')|list | users|map(attribute='zip', default='?')|list | words|map('upper')|list | [[1,2],[3]]|map('first')|list | users|map(attribute='name')|map('lower')|join(' ') | ['1','2']|map('int')|sum | [' a','b ']|map('trim')|list | ['a']|map('replace', 'a', 'b')|list | users|map(attribute='name')|list|length
[1,0,2,none]|select|list | [1,2,3,4]|select('even')|list | [1,2,3]|reject('odd')|list | [1,2,3]|select('gt', 1)|list | [1,2,3]|select('in', [1,3])|list | users|selectattr('age', 'equalto', 30)|map(attribute='name')|list | users|rejectattr('age', 'eq', 30)|list | messages|selectattr('role', '==', 'user')|list|length | users|selectattr('nope')|list | users|selectattr('nope', 'defined')|list | [none, 1]|reject('none')|list | ['a', 1]|select('string')|list | [[], 'x']|reject|list
l|first | l|last | []|first | ''|last | 'abc'|first | d|first | l|sort | l|sort(reverse=true) | words|sort | words|sort(case_sensitive=true) | users|sort(attribute='name')|map(attribute='name')|list | users|sort(attribute='age,name')|map(attribute='name')|list | users|sort(attribute='age', reverse=true)|map(attribute='name')|list
d|dictsort|length | {'b':1,'A':2}|dictsort | {'b':1,'a':2}|dictsort(by='value') | {'b':1,'a':2}|dictsort(reverse=true) | {'b':1,'a':2}|items|list | {'b':1,'A':2}|dictsort(true)
[1,2,1,3,2]|unique|list | ['a','A','b']|unique|list | ['a','A']|unique(true)|list | users|unique(attribute='age')|map(attribute='name')|list | l|reverse|list | 'abc'|reverse | (1,2)|reverse|list | u|reverse
5|string | none|string | 3.0|string | '42'|int | '4.7'|int | 'x'|int | 'x'|int(9) | '1f'|int(0, 16) | '0x1f'|int(0, 16) | 3.99|int | -3.99|int | true|int | none|int(3) | '3.5'|float | 'x'|float | 'x'|float(1.5) | 3|float | ' 7 '|int | '1e3'|float | '1e3'|int
2.567|round(2) | 2.5|round | 3.5|round | 2.1|round(0, 'ceil') | 2.9|round(method='floor') | 5|round | 0.125|round(2) | 1234|round(-2) | y|abs | -2.5|abs | 0|abs | 42.55|round(1) | 1e300|round(2)
[1,2,3]|sum | [1.5, 2]|sum | users|sum(attribute='age') | [1]|sum(start=10) | []|sum | l|min | l|max | []|min | words|min | words|max | users|max(attribute='age') | ['b','A']|min(case_sensitive=true) | users|min(attribute='name')
[1,2,3,4,5]|batch(2)|list | [1,2,3]|batch(2, 'x')|list | [1,2,3,4,5]|slice(2)|list | [1,2,3]|slice(2, 'x')|list | []|batch(3)|list | [1,2]|slice(3)|list | [1,2]|slice(3, 0)|list
users|groupby('age') | users|groupby('g')|map(attribute='grouper')|list | users|groupby('g')|map(attribute='list')|map('length')|list | users|groupby('zip', default='none')|length
'a\nb\n\nc'|indent | 'a\nb'|indent(2, true) | 'a\n\nb'|indent(2, blank=true) | 'a\nb'|indent('> ') | ''|indent(3, true) | 'a\n'|indent
html|safe | html|e | html|escape|e | html|forceescape | '<b>'|safe + '<' | html|e|upper | ['<'|e] | (html|e) ~ '<' | '<'|e|string | ('<'|safe) is escaped
'%s-%s'|format(1, 'a') | '%(a)s'|format(a=3) | 'a b  c'|wordcount | u|wordcount | 'a long sentence here indeed'|truncate(12) | 'a long sentence here indeed'|truncate(12, true) | 'short'|truncate(5) | 'abcdefghijkl'|truncate(5, true, '…', 0) | 'ab'|center(6) ~ '|' | undefined_thing|default('q') | ''|default('q') | ''|default('q', true) | none|d('q') | undefined_thing|d | false|default('z', boolean=true) | d|attr('b') | s|attr('upper') is callable | namespace(b=2)|attr('b')
x|abs|string|length | -x|abs | 'a'|upper + 'b' | ('a' + 'b')|upper | [3,1]|sort|first | words|map('length')|list | words|map('first')|join | l|sort|reverse|list|tojson
x is defined | nope is defined | nope is undefined | x is not defined | none is none | x is not none | s is string | x is string | d is mapping | l is iterable | s is iterable | x is iterable | l is sequence | d is sequence | x is sequence | x is number | f is number | t is number | x is integer | t is integer | f is float | t is boolean | t is true | x is true | false is false | 0 is false
x is odd | 4 is even | 9 is divisibleby 3 | 9 is divisibleby(3) | 9 is not divisibleby 2 | x is eq 5 | x is equalto(5) | x is ne 4 | x is lt 9 | x is gt 9 | x is le 5 | x is ge 6 | x is lessthan 6 | 1 is in l | 1 is in [2] | 'a' is not in d | 'abc' is lower | 'ABC' is upper | '1' is lower | range is callable | s is callable | none is sameas none | x is sameas 5 | 'upper' is filter | 'odd' is test | 'nope' is filter
x is defined and x is number | x is odd or nope.y | not x is odd | x is odd if t else 1 | nope is none | (1, 2) is sequence | d.keys() is sequence | d.keys() is iterable | [1]|map('string') is iterable | users|map(attribute='q')|first is undefined | x is number is true
"""

BLOCKS = [
    # White space.
    "a\n{% if t %}\nb\n{% endif %}\nc", "a\n  {% if t %}\n  b\n  {% endif %}\nc\n", "a  {%- if t %}  b  {%- endif %}  c",
    "a\n\n{%- if t -%}\n\nb\n{% endif -%}\n\nc", "  {%+ if t %}x{% endif %}", "{% if t +%}\nx{% endif +%}\ny", "{{ x }}\n",
    "{{ x }}\n\n", "\n{{ x }}", "  {{ x }}  ", "a {{- x -}} b", "a\n {{- x -}} \n b", "{# c #}\nx", "a {#- c -#} b", " {# c #}\n x",
    "  {#+ c #} x", "a\r\nb\rc\n", "{%- for i in l %}\n  {{ i }}\n{%- endfor %}\n", "{% for i in l -%}\n  {{ i }}\n{% endfor -%}\n z",
    "{% raw %}{{ x }} {% if %}{% endraw %}", "{% raw -%}\n  {{ x }}\n{%- endraw %}\n!", "  {% raw %}\n a\n  {% endraw %}\nb",
    "{{ '{{' }} }} %} #}", "{{ '%}' }}{{ \"#}\" }}", "{ { x } }", "{%if t%}a{%endif%}", "{{x}}{{y}}", "x\u3000{%- if t %}y{% endif %}",
    "\t{% set a = 1 %}\n\t{{ a }}", "a {% set b = 1 %}\nc", "{% if t %}\n\n  x\n{% endif %}", "{{ {'a': {'b': 1}}}}", "{{ {'a': 1}['a'] }}",
    "{#a#}{#b#}\n\n{#c#}", "{% if t %}a{% endif %}\n{% if t %}b{% endif %}\n", "a{# {{ x }} {% if %} #}b", "{{ x -}}\n\n\t y",
    # if
    "{% if nope %}a{% elif x == 5 %}b{% else %}c{% endif %}", "{% if nope %}a{% elif none %}b{% else %}c{% endif %}",
    "{% if l %}{% if d %}q{% endif %}{% endif %}", "{% if 1, %}t{% endif %}", "{% if not nope %}y{% endif %}", "{% if t: %}a{% endif %}",
    # for
    "{% for i in l %}{{ i }},{% endfor %}", "{% for i in [] %}x{% else %}none{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}", "{% for c in u %}[{{ c }}]{% endfor %}", "{% for i in nope %}x{% else %}e{% endfor %}",
    "{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}|{% endfor %}",
    "{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}", "{% for i in l %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for i in [1,1,2,2,1] %}{{ loop.changed(i) }} {% endfor %}", "{% for i in l if i > 1 %}{{ i }}/{{ loop.length }}{{ loop.last }} {% else %}q{% endfor %}",
    "{% for i in l if i > 9 %}{{ i }}{% else %}q{% endfor %}", "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for a in l %}{% for b in l %}{{ loop.index }}{% if b == a %}{% break %}{% endif %}{% endfor %};{{ loop.index }}{% endfor %}",
    "{% for n in tree recursive %}{{ loop.depth }}{{ loop.depth0 }}:{{ n.n }}{% if n.kids %}({{ loop(n.kids) }}){% endif %}{% endfor %}",
    "{% for (a, b) in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for i in 1, 2, 3 %}{{ i }}{% endfor %}", "{% for i in l|sort %}{{ i }}{% endfor %}{{ i }}", "{% for i in (l if t else []) %}{{ i }}{% endfor %}",
    "{% set g = l|map('string') %}{% for i in g %}{{ i }}{% endfor %}{% for i in g %}{{ i }}{% else %}spent{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for i in range(5) if ns.n < 2 %}{% set ns.n = ns.n + 1 %}{{ i }}{% endfor %}",
    "{% for m in messages[1:] %}{{ m.role }}{{ loop.index }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for m in messages %}{{ m['role'] ~ ': ' ~ m['content'] | trim }}\n{% endfor %}", "{% for i in l %}{{ loop is defined }}{% endfor %}{{ loop is defined }}",
    "{% for x in l %}{{ x }}{% endfor %}{{ x }}", "{% for i in users|groupby('g') %}{{ i.grouper }}{{ i.list|length }}{{ i[0] }}{% endfor %}",
    "{% for k, g in users|groupby('age') %}{{ k }}:{% for p in g %}{{ p.name }}{% endfor %} {% endfor %}",
    # set and scopes
    "{% set a = 1 %}{{ a }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set a = 0 %}{% for i in l %}{% set a = i %}{{ a }}{% endfor %}{{ a }}",
    "{% set ns = namespace(a=0) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}", "{% if t %}{% set q = 7 %}{% endif %}{{ q }}",
    "{% if nope %}{% set x = 7 %}{% endif %}{{ x }}", "{% set a %}b{{ x }}{% endset %}{{ a }}{{ a|length }}", "{% set a | upper | trim %} b{{ x }} {% endset %}[{{ a }}]",
    "{% set x = x + 1 %}{{ x }}", "{% for i in l %}{{ x }}{% set x = i %}{{ x }} {% endfor %}{{ x }}", "{% set ns = namespace() %}{% set ns.v = 'q' %}{{ ns.v }}{{ ns.w }}",
    "{% set ns = namespace(a=1, b='z') %}{{ ns }}", "{% set ns = namespace() %}{% set ns.a, b = 1, 2 %}{{ ns.a }}{{ b }}", "{% set ns = namespace(l=[]) %}{% for i in l %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.l }}",
    "{% set a %}{% set b = 2 %}{{ b }}{% endset %}{{ a }}{{ b }}", "{% with a = 1, b = x %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% set a = 3 %}{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z }}", "{% for i in [1] %}{% set b = 1 %}{% if t %}{% set b = 2 %}{% endif %}{{ b }}{% endfor %}", "{% set loop_messages = messages %}{{ loop_messages|length }}",
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{{ system }}{{ rest|length }}",
    "{% for i in l %}{% if loop.first %}{% set f = 'first' %}{% endif %}{{ f }} {% endfor %}", "{{ x }}{% set x = 1 %}{{ x }}",
    # macros
    "{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=4, a=5) }} {{ m() }}", "{% macro m() %}{{ x }}{% set x = 1 %}{% endmacro %}{{ m() }}{{ x }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, k=3) }}", "{% macro m(a) %}{{ a }}{{ varargs|length }}{% endmacro %}{{ m(1, 2, 3) }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{{ x }}{% endcall %}",
    "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}+{{ b }}{% endcall %}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% macro m() %}  a  {% endmacro %}[{{ m()|trim }}]", "{% macro m() %}{% endmacro %}{{ m is callable }}{{ m.name }}",
    "{% set v = 1 %}{% macro m() %}{{ v }}{% endmacro %}{% set v = 2 %}{{ m() }}", "{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}", "{% macro m(a='x') %}{{ a|upper }}{% endmacro %}{{ m() ~ m('y') }}",
    "{% macro m(p, opt=none) %}{{ p.name }}{% if opt is not none %}:{{ opt }}{% endif %}{% endmacro %}{% for p in users %}{{ m(p, loop.index) }} {% endfor %}", "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ x }}{% endmacro %}{% with x = 9 %}{{ m() }}{% endwith %}", "{% macro m(*a) %}{% endmacro %}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(*[1]) }}{{ m(**{'a': 2}) }}",
    "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(1, *[2]) }}", "{% macro outer() %}{% macro inner() %}i{{ x }}{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}",
    # filter blocks, generation, others
    "{% filter upper %}abc{{ s }}{% endfilter %}", "{% filter replace('a', 'b')|trim %} aaa {% endfilter %}!", "{% generation %}{{ x }}\n{% endgeneration %}\nz", "{% generation %}{% set k = 1 %}{{ k }}{% endgeneration %}{{ k }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set _ = c.reset() %}{{ c.current }}", "{% set j = joiner(', ') %}{% for i in l %}{{ j() }}{{ i }}{% endfor %}",
    "{% print x, 1 %}", "{{ messages | map(attribute='content') | list | last }}", "{{ '' if true }}{{ none }}{{ true }}", "{{ messages[1].content }}", "{{- 'a' -}}  {{- 'b' -}}",
    "{% for i in range(3) %}{{ i }}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}", "{{ users[0].name.upper()[::-1] }}", "{{ (messages|first).role }}{{ (l|sort)[0] }}", "{{ [1, [2, [3]]][1][1][0] }}",
    "{{ 'x' in ['x'] and 'y' not in ['x'] }}", "{{ d.a[1] is mapping }}{{ d.a[5] is defined }}", "{{ s.split(',')[-1].strip() }}", "{{ s.split(', ')|last|lower }}", "{{ content.split('</think>')[-1] if content is defined else 'no' }}",
    "{%- set t2 = 'abc' %}{{ t2[1:] ~ t2[:1] }}", "{{ x }}{{ messages|tojson }}", "{{ '%02d' % 5 }}{{ 'a%sb' % none }}", "{{ dict(messages[0], extra=1)|tojson }}", "{{ [none, true, 1.5, 'it\\'s', \"q\\\"\"] }}", "{{ ['\\n', '\u200b', 'é', '\\x7f', '\\\\'] }}",
    # errors
    "{{ nope.a }}", "{{ nope() }}", "{{ nope + 1 }}", "{{ nope < 1 }}", "{{ d.nope.x }}", "{{ none.x.y }}", "{{ 1 + 'a' }}", "{{ 'a' + 1 }}", "{{ [1] + (2,) }}", "{{ 1 < 'a' }}", "{{ 1 in 5 }}", "{{ 1 in 'a' }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}",
    "{{ raise_exception('no way') }}", "{{ raise_exception('a' ~ x) if t }}", "{% for i in 5 %}{% endfor %}", "{% for i in none %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{{ l.append(1) }}", "{{ d.pop('b') }}", "{{ d.update({}) }}",
    "{{ s.nope() }}", "{{ s() }}", "{{ 5|length }}", "{{ none|length }}", "{{ nope|tojson }}", "{{ range(3)|tojson }}", "{{ d.items()|tojson }}", "{{ range(1000000) }}", "{{ range(0, 5, 0) }}", "{{ [1, 'a']|sort }}", "{{ 'abc'|round }}", "{{ {[1]: 2} }}", "{{ s.index('zz') }}", "{{ ''.split('') }}",
    "{% set x.y = 1 %}", "{% set nope.y = 1 %}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(z=1) }}", "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}", "{{ s|join }}{{ 5|join }}", "{{ l|map('nope')|list }}", "{{ l|select('nope')|list }}", "{{ users|map|list }}", "{{ none|select('odd')|list }}", "{{ 0|map('upper')|list }}", "{{ l|map('upper')|length }}",
    "{{ '%d' % 'a' }}", "{{ '%s %s' % 'a' }}", "{{ '%s' % (1, 2) }}", "{{ '{}'.format() }}", "{{ '-'.join([1]) }}", "{{ -'a' }}", "{{ 'a' * 'b' }}", "{{ l[::0] }}", "{{ l['a':] }}", "{{ s.startswith(1) }}", "{{ cycler() }}", "{{ loop.index }}", "{% for i in l %}{{ loop(l) }}{% endfor %}",
    "{% if %}{% endif %}", "{% if x %}", "{% for i in l %}", "{% endfor %}", "{% else %}", "{% nope %}", "{{ x", "{{ }}", "{% %}", "{# x", "{% raw %}x", "{{ 'a }}", "{{ a b }}", "{{ 1 + }}", "{{ (1 }}", "{{ [1, }}", "{{ {'a' 1} }}", "{{ x|nope }}", "{{ x is nope }}", "{{ x | }}", "{{ x. }}", "{{ 1 = 1 }}", "{{ $ }}", "{{ a ! b }}",
    "{% set %}", "{% set 1 = 2 %}", "{% set true = 2 %}", "{% for loop in l %}{% endfor %}", "{% break %}", "{% macro m %}{% endmacro %}", "{% call x %}{% endcall %}", "{{ f(a=1, 2) }}", "{{ x is odd is even }}", "{% if x %}{{ y|nope }}{% endif %}", "{% if nope %}{{ y|nope }}{% endif %}ok", "{% do l %}", "{{ a..b }}", "{{ ) }}", "{{ [) }}", "{{ \"\\x4\" }}", "{{ 012 }}",
    "{% for i in l %}{{ i }}{% endfor %}{% endif %}", "{% if x %}{% else %}{% else %}{% endif %}", "{% filter nope %}{% endfilter %}", "{% set a = 1 %}{{ a.b.c }}", "{{ ''.x.y }}", "{{ d['q']['r'] }}", "{{ l[9].x }}", "{{ undefined_thing[0] }}", "{{ (1).x.y }}", "{{ namespace(a=1).z.q }}",
    "{{ [1, 2]|first|upper|nope2 }}", "{{ none + 1 }}", "{{ not }}", "{{ x if }}", "{{ d|dictsort(by='q') }}", "{{ l|dictsort }}", "{{ x|items|list }}", "{{ l|batch }}", "{{ 'a'|truncate(1) }}", "{{ 5|indent }}", "{{ l|sum(attribute='q') }}", "{{ ['a']|sum }}", "{{ users|sort(attribute='zip') }}", "{{ nope|int }}", "{{ 'a' is divisibleby 2 }}",
]


# Chat templates with the constructs that public models' templates use.
CHATS = [
    """{%- for m in messages %}
    {%- if loop.first and m.role != 'system' %}
        {{- '[sys]You are helpful.[/sys]\\n' }}
    {%- endif %}
    {{- '[' + m['role'] + ']' + m['content'] | trim + '[/' + m['role'] + ']' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt is defined and add_generation_prompt or t %}
    {{- '[assistant]' }}
{%- endif %}""",
    """{%- set ns = namespace(last=-1, seen=false) -%}
{%- for m in messages[::-1] -%}
    {%- set i = (messages|length - 1) - loop.index0 -%}
    {%- if not ns.seen and m.role == 'user' and m.content is string -%}
        {%- set ns.seen = true -%}{%- set ns.last = i -%}
    {%- endif -%}
{%- endfor -%}
{{ ns.last }}
{% macro show(tool, depth=0) -%}
    {%- for key, value in tool|items -%}
        {{ '  ' * depth }}{{ key }}:{% if value is mapping %}{{ '\\n' }}{{ show(value, depth + 1) }}{% elif value is iterable and value is not string %}{{ value|tojson }}{{ '\\n' }}{% else %} {{ value }}{{ '\\n' }}{% endif %}
    {%- endfor -%}
{%- endmacro %}
<tools>
{% for tool_ in [tool] %}
{{ tool_ | tojson(indent=2) }}
{{ show(tool_) }}
{% endfor %}
</tools>""",
    """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set sys = messages[0]['content'].strip() %}{% else %}{% set rest = messages %}{% set sys = none %}{% endif %}
{{ bos_token }}{% for m in rest %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate: ' ~ m.role) }}
{% endif %}
{% if m.role == 'user' %}
<u>{{ (sys ~ '\\n\\n' if loop.first and sys is not none else '') ~ m.content }}</u>
{% elif m.role == 'assistant' %}
{% generation %}<a>{{ m.content.split('</think>')[-1].lstrip('\\n') }}</a>{% endgeneration %}

{% endif %}
{% endfor %}""",
    """{% for m in messages %}{% if m.role == 'user' %}{{ raise_exception('no user: ' + m.content) }}{% endif %}{% endfor %}""",
]


def split_line(line):
    """Expressions are separated by ' | ' with spaces on both sides outside strings; a filter's bar has none here."""
    return [e for e in line.split(" | ") if e]


def templates():
    for text, joined in ((EXPRESSIONS, False), (FILTERS, True)):
        for line in text.strip().replace("\\\nb\"", "\\\x00b\"").split("\n"):
            for e in split_line(line):
                yield "{{ " + e.replace("\x00", "\n") + " }}"
    yield from BLOCKS
    yield from CHATS


def main():
    env = environment()
    cases, seen = [], set()
    for source in templates():
        if source in seen:
            continue
        seen.add(source)
        case = {"template": source}
        try:
            template = env.from_string(source)
            try:
                case["expected"] = template.render(**V)
            except Exception as error:  # any failure of a rendering counts
                case["error"] = str(error)
        except Exception as error:
            case["parse_error"] = str(error)
        cases.append(case)
    json.dump({"variables": V, "cases": cases}, sys.stdout, ensure_ascii=False, indent=0)
    print()


if __name__ == "__main__":
    main()
