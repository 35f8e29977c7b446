"""Right or wrong: what an answer says, and whether that is what was asked for. Pure functions; graders_test.py."""

import fractions
import math
import re

_NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?%?|[-+]?\$?\.\d+")


def pass_at_k(samples, right, k):
    """Chance that one of k samples drawn without putting back is right (Chen et al. 2021, eq. 1)."""
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"{right} right of {samples} samples, k {k}")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def number(text):
    """The number that a text is, exactly, or None: 1,234 and $3.50 and 7/8 and 20% (20)."""
    cleaned = re.sub(r"[$,\s]", "", text).rstrip("%.")
    try:
        return fractions.Fraction(cleaned)
    except (ValueError, ZeroDivisionError):
        return None


def last_number(answer):
    """What an answer comes to: after '####' as GSM8K writes it, otherwise in the last \\boxed{}, otherwise its last
    number."""
    if "####" in answer:
        found = _NUMBER.search(answer.rpartition("####")[2])
        return number(found.group()) if found else None
    boxed = last_boxed(answer)
    if boxed is not None and (value := number(boxed)) is not None:
        return value
    found = _NUMBER.findall(answer)
    return number(found[-1]) if found else None


def same_number(answer, expected):
    wanted = last_number(expected)
    if wanted is None:
        raise ValueError(f"no number is expected: {expected!r}")
    return last_number(answer) == wanted


def last_boxed(text):
    """What is in the last \\boxed{…} or \\fbox{…} of a text, braces balanced, or None."""
    begin = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if begin < 0:
        return None
    first = text.index("{", begin) + 1
    depth = 1
    for i in range(first, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[first:i]
    return None


def normal_latex(text):
    """One spelling for the spellings of one result, as the MATH data set's own grader has it, in short."""
    text = text.strip().rstrip(".")
    for old, new in (("\\left", ""), ("\\right", ""), ("\\!", ""), ("\\,", ""), ("\\ ", ""), ("\\;", ""), ("\\$", ""),
                     ("$", ""), ("\\%", ""), ("%", ""), ("tfrac", "frac"), ("dfrac", "frac"), ("^\\circ", ""),
                     ("^{\\circ}", "")):
        text = text.replace(old, new)
    text = re.sub(r"\\text\s*{([^}]*)}", r"\1", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*(\w)", r"\\sqrt{\1}", text)
    return re.sub(r"\s+", "", text)


def same_latex(answer, expected):
    """The last \\boxed{} of an answer, or its last line, beside the expected one's."""
    wanted = last_boxed(expected)
    wanted = normal_latex(expected if wanted is None else wanted)
    said = last_boxed(answer)
    said = normal_latex((answer.strip().splitlines() or [""])[-1] if said is None else said)
    if said == wanted:
        return True
    values = []
    for text in (said, wanted):
        text = re.sub(r"^(-?)\\frac{(-?\d+)}{(-?\d+)}$", r"\1\2/\3", text)
        values.append(number(text))
    return values[0] is not None and values[0] == values[1]


def choice(answer, letters):
    """The letter that an answer settles on, or None: 'The answer is (B)', 'B', 'B. Iron'. The last sentence that says
    what the answer is decides; without one, a letter that the answer begins with."""
    one = f"[{letters}]"
    said = re.findall(rf"answer\s*(?:is|:)?\s*:?\s*\**\(?({one})\b", answer, re.IGNORECASE)
    if said:
        return said[-1].upper()
    begins = re.match(rf"\s*\**\(?({one})(?:[).:*,]|\s*$|\s+(?=[-–:]))", answer)
    return begins.group(1) if begins else None


def code(answer):
    """The program in an answer: its longest fenced block, or all of it."""
    blocks = re.findall(r"```[^\n]*\n(.*?)(?:```|\Z)", answer, re.DOTALL)
    return max(blocks, key=len) if blocks else answer
