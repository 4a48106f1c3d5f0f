"""Dates as people write them, and as ISO 8601 has them: "3rd of May, 2021" and "2021-05-03".

Every text is of one day only: between slashes the month comes first, between dots the day; years of two digits are
those of 1950 to 2049.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from tinyrnn.checks import as_count, as_generator, check_ints, type_name

FIRST, LAST = date(1950, 1, 1), date(2049, 12, 31)
DAYS = (LAST - FIRST).days + 1

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth",
    "twentieth", "twenty-first", "twenty-second", "twenty-third", "twenty-fourth", "twenty-fifth", "twenty-sixth",
    "twenty-seventh", "twenty-eighth", "twenty-ninth", "thirtieth", "thirty-first",
)  # fmt: skip

FORMS = (
    "{day} {month} {year}",
    "{day} {mon} {year}",
    "{day} {mon}. {year}",
    "{day} {mon} '{yy}",
    "{dd}-{mon}-{yy}",
    "{day}{th} of {month} {year}",
    "{day}{th} of {month}, {year}",
    "{day}{th} {mon} {year}",
    "the {day}{th} of {month} '{yy}",
    "the {ordinal} of {month} {year}",
    "{month} {day}, {year}",
    "{month} {day}{th}, {year}",
    "{month} the {ordinal}, {year}",
    "{mon} {day}, '{yy}",
    "{mon} {dd} {year}",
    "{weekday}, {day} {month} {year}",
    "{weekday}, {month} {day}{th}, {year}",
    "{wday} {day} {mon} {year}",
    "{wday}, {mon} {day} '{yy}",
    "{day}.{m}.{year}",
    "{dd}.{mm}.{yy}",
    "{day}. {month} {year}",
    "{m}/{day}/{year}",
    "{mm}/{dd}/{yy}",
    "{year}/{mm}/{dd}",
    "{year} {mon} {day}",
    "{year}, {month} {day}{th}",
    "{year}{mm}{dd}",
)
"""How a date is written; see `write_date`. Each of them may come in lower or upper case as well."""

CHARACTERS = " '," + "-./0123456789" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abcdefghijklmnopqrstuvwxyz"
"""All that occurs in them."""


def write_date(day: date, form: str) -> str:
    """`day` in the given form: a text whose fields in braces are day, dd, th, ordinal; month, mon, m, mm; year, yy;
    weekday and wday, as for 3 May 2021: 3, 03, rd, third; May, May, 5, 05; 2021, 21; Monday and Mon. Raises ValueError
    for other fields, TypeError for what is no date."""
    if not isinstance(day, date):
        raise TypeError(f"day must be a datetime.date, got {type_name(day)}")
    if not isinstance(form, str):
        raise TypeError(f"form must be a str, got {type_name(form)}")
    teens = 11 <= day.day <= 13
    fields: dict[str, object] = {
        "day": day.day,
        "dd": f"{day.day:02}",
        "th": "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th"),
        "ordinal": ORDINALS[day.day - 1],
        "month": MONTHS[day.month - 1],
        "mon": MONTHS[day.month - 1][:3],
        "m": day.month,
        "mm": f"{day.month:02}",
        "year": day.year,
        "yy": f"{day.year % 100:02}",
        "weekday": WEEKDAYS[day.weekday()],
        "wday": WEEKDAYS[day.weekday()][:3],
    }
    try:
        return form.format_map(fields)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(f"form must have no fields but {', '.join(fields)}, got {form!r}: {error!r}") from None


def written_dates(rng: np.random.Generator, days: list[date]) -> list[str]:
    """Each day in a form that is drawn, one in four all in lower case and one in ten in upper case."""
    as_generator(rng)
    if not isinstance(days, (list, tuple)):
        raise TypeError(f"days must be a list of dates, got {type_name(days)}")
    if strange := [day for day in days if not isinstance(day, date)]:
        raise TypeError(f"days must be dates, got {type_name(strange[0])}")
    texts = []
    for day, form, case in zip(days, rng.integers(0, len(FORMS), len(days)), rng.random(len(days)), strict=True):
        text = write_date(day, FORMS[form])
        texts.append(text.lower() if case < 0.25 else text.upper() if case > 0.9 else text)
    return texts


def split_days(seed: int, held_out: int) -> tuple[list[date], list[date], list[date]]:
    """All days from 1950 to 2049, shuffled by the seed: those to train on, `held_out` to choose by and as many to judge
    by. No day is in two of them. Raises ValueError unless some are left to train on."""
    check_ints(held_out=held_out)
    as_count("seed", seed)
    if not 1 <= held_out < DAYS // 2:
        raise ValueError(f"held_out must be >= 1 and less than half of the {DAYS:,} days, got {held_out}")
    mixed = [FIRST + timedelta(days=int(k)) for k in np.random.default_rng(seed).permutation(DAYS)]
    return mixed[2 * held_out :], mixed[:held_out], mixed[held_out : 2 * held_out]
