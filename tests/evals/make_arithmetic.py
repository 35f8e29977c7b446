"""Writes word problems in GSM8K's form, one JSON object a line: {"question": …, "answer": "steps\\n#### number"}.

All is made here from a seed; `arithmetic.jsonl` is what `make_arithmetic.py > arithmetic.jsonl` prints. Two to four
steps each, whole numbers, and never the same question twice.
"""

import argparse
import json
import random

NAMES = ("Ada", "Ben", "Chidi", "Dana", "Emre", "Fatima", "Goran", "Hana", "Ines", "Jonas", "Kofi", "Lena", "Mei",
         "Noor", "Oskar", "Priya", "Quinn", "Rosa", "Sven", "Tariq", "Uma", "Viktor", "Wen", "Yara", "Zoe")
THINGS = ("apples", "pencils", "stickers", "marbles", "books", "cookies", "shells", "postcards", "buttons", "seeds")


def shopping(r):
    name, thing, other = r.choice(NAMES), *r.sample(THINGS, 2)
    a, p, b, q = r.randint(2, 9), r.randint(2, 12), r.randint(2, 9), r.randint(2, 12)
    paid = -(-(a * p + b * q) // 10) * 10 + 10
    return (f"{name} buys {a} {thing} for {p} dollars each and {b} {other} for {q} dollars each, and pays with {paid} "
            f"dollars. How many dollars does {name} get back?",
            [f"The {thing} cost {a} * {p} = {a * p} dollars.", f"The {other} cost {b} * {q} = {b * q} dollars.",
             f"Together that is {a * p} + {b * q} = {a * p + b * q} dollars.",
             f"{name} gets back {paid} - {a * p + b * q} = {paid - a * p - b * q} dollars."], paid - a * p - b * q)


def sharing(r):
    name, thing = r.choice(NAMES), r.choice(THINGS)
    friends, each, left = r.randint(3, 9), r.randint(4, 15), r.randint(1, 8)
    total = friends * each + left
    return (f"{name} has {total} {thing}, keeps {left} of them and shares the rest equally among {friends} friends. "
            f"How many {thing} does each friend get?",
            [f"There are {total} - {left} = {total - left} {thing} to share.",
             f"Each friend gets {total - left} / {friends} = {each}."], each)


def growing(r):
    name, thing = r.choice(NAMES), r.choice(THINGS)
    start, daily, days, lost = r.randint(10, 60), r.randint(3, 12), r.randint(4, 14), r.randint(2, 9)
    end = start + daily * days - lost
    return (f"{name} starts with {start} {thing} and collects {daily} more every day for {days} days. Then {name} "
            f"loses {lost} of them. How many {thing} does {name} have now?",
            [f"In {days} days {name} collects {daily} * {days} = {daily * days} {thing}.",
             f"That makes {start} + {daily * days} = {start + daily * days}.",
             f"After losing {lost} there are {start + daily * days} - {lost} = {end}."], end)


def comparing(r):
    (one, two), thing = r.sample(NAMES, 2), r.choice(THINGS)
    a, times, more = r.randint(5, 25), r.randint(2, 6), r.randint(3, 20)
    b = a * times + more
    return (f"{one} has {a} {thing}. {two} has {more} more than {times} times as many. How many {thing} do they have "
            f"together?",
            [f"{times} times as many is {a} * {times} = {a * times}.", f"{two} has {a * times} + {more} = {b}.",
             f"Together they have {a} + {b} = {a + b}."], a + b)


def working(r):
    name = r.choice(NAMES)
    wage, hours, days, rent = r.randint(9, 25), r.randint(3, 8), r.randint(3, 6), r.randint(20, 90)
    earned = wage * hours * days
    return (f"{name} earns {wage} dollars an hour, works {hours} hours a day for {days} days, and then spends {rent} "
            f"dollars. How many dollars are left?",
            [f"That is {hours} * {days} = {hours * days} hours.", f"{name} earns {wage} * {hours * days} = {earned} "
             f"dollars.",
             f"There are {earned} - {rent} = {earned - rent} dollars left."], earned - rent)


def travelling(r):
    name = r.choice(NAMES)
    speed, hours, slow, more = 5 * r.randint(8, 20), r.randint(2, 5), 5 * r.randint(2, 7), r.randint(2, 4)
    total = speed * hours + slow * more
    return (f"{name} drives {hours} hours at {speed} km an hour and then {more} hours at {slow} km an hour. How many "
            f"km does {name} drive in all?",
            [f"First {hours} * {speed} = {speed * hours} km.", f"Then {more} * {slow} = {slow * more} km.",
             f"In all {speed * hours} + {slow * more} = {total} km."], total)


def discount(r):
    name, thing = r.choice(NAMES), r.choice(THINGS)
    price, percent, count = 20 * r.randint(1, 9), r.choice((10, 20, 25, 30, 50)), r.randint(2, 6)
    off = price * percent // 100
    return (f"A box of {thing} costs {price} dollars. It is now {percent}% off, and {name} buys {count} boxes. How "
            f"many dollars does {name} pay?",
            [f"{percent}% of {price} is {off} dollars.", f"A box costs {price} - {off} = {price - off} dollars.",
             f"{name} pays {count} * {price - off} = {count * (price - off)} dollars."], count * (price - off))


def rows(r):
    count, seats, empty, price = r.randint(6, 20), r.randint(8, 16), r.randint(5, 40), r.randint(3, 12)
    sold = count * seats - empty
    return (f"A hall has {count} rows of {seats} seats. For tonight {empty} seats stay empty and each ticket costs "
            f"{price} dollars. How many dollars do the tickets bring?",
            [f"There are {count} * {seats} = {count * seats} seats.", f"{count * seats} - {empty} = {sold} tickets are "
             f"sold.",
             f"They bring {sold} * {price} = {sold * price} dollars."], sold * price)


KINDS = (shopping, sharing, growing, comparing, working, travelling, discount, rows)


def problems(count, seed):
    r = random.Random(seed)
    seen = set()
    while len(seen) < count:
        question, steps, result = KINDS[len(seen) % len(KINDS)](r)
        if question not in seen:
            seen.add(question)
            yield {"question": question, "answer": "\n".join([*steps, f"#### {result}"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2024)
    flags = parser.parse_args()
    for problem in problems(flags.count, flags.seed):
        print(json.dumps(problem, ensure_ascii=False))


if __name__ == "__main__":
    main()
