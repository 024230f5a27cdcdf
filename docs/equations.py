"""Equations of the site: conversion of docstrings to LaTeX, and of LaTeX to MathML."""

import re
from typing import Any

SEPARATORS = re.compile(r"( (?:=|\+|-|<-) |, )")
WORD = re.compile(r"(?<![A-Za-z_])[A-Za-z]{2,}")
COMMANDS = {"sum": r"\sum", "log": r"\log", "sqrt": "sqrt", "abs": "abs"}


def to_latex(equations: str) -> str:
    """Return the LaTeX of the equations of a docstring, one per line.

    `x_k' = sum_e w_{k,e} E_e` has sums, indices and roots as in LaTeX, without backslashes. A
    fraction has spaces around its slash, and reaches to the next sign, comma or parenthesis.
    """
    lines = [
        _line(re.sub(" +", " ", line.strip()))
        for line in equations.strip().split("\n")
    ]
    if len(lines) == 1:
        return lines[0].replace("&", "")
    return r"\begin{aligned}" + r" \\ ".join(lines) + r"\end{aligned}"


def _line(text: str) -> str:
    text = WORD.sub(
        lambda word: COMMANDS.get(word[0], rf"\mathrm{{{word[0]}}}"), text
    )
    text = re.sub(r"_([A-Za-z]{2,})", r"_{\1}", text)
    # The innermost parentheses come first. A finished part has no separating spaces.
    while "(" in text:
        text = re.sub(
            r"\(([^()]*)\)",
            lambda m: f"⟨{_fractions(m[1])}⟩".replace(" ", "~"),
            text,
        )
    text = _fractions(text)
    text = re.sub(r"sqrt⟨([^⟨⟩]*)⟩", r"\\sqrt{\1}", text).replace("~", " ")
    text = re.sub(r"abs⟨([^⟨⟩]*)⟩", r"\\left|\1\\right|", text)
    text = (
        text.replace("⟨", r"\left(").replace("⟩", r"\right)").replace("*", r"\cdot")
    )
    text = re.sub(r"(?<=[\w}')]) (?=[\w\\(])", r"\\,", text)
    text = re.sub(r" (=|<-) ", r" &\1 ", text, count=1)
    return text.replace("<-", r"\leftarrow").replace("η", r"\eta")


def _fractions(text: str) -> str:
    parts = SEPARATORS.split(text)
    for i, part in enumerate(parts):
        above, slash, below = part.partition(" / ")
        if slash:
            parts[i] = rf"\frac{{{_bare(above)}}}{{{_bare(below)}}}"
    return "".join(parts)


def _bare(text: str) -> str:
    """Return a part of a fraction without the parentheses that it no longer needs."""
    return text[1:-1] if re.fullmatch("⟨([^⟨⟩]|⟨[^⟨⟩]*⟩)*⟩", text) else text


def math_fence(source: str, *_: Any, **__: Any) -> str:
    """Return the MathML of a block of LaTeX, which needs no script."""
    from latex2mathml.converter import convert

    # GitHub supports the first name, and latex2mathml the second.
    latex = source.replace("{aligned}", "{align*}")
    return f'<div class="equation">{convert(latex, display="block")}</div>'
