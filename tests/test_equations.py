"""The equations of docstrings on the site."""

import pytest

from tests.helpers import once
from tests.processes import ROOT, load_module

pytestmark = once

equations = load_module(ROOT / "docs" / "equations.py")


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("x_k' = sum_e w_{k,e} E_e", r"x_k' = \sum_e\,w_{k,e}\,E_e"),
        ("f_kb = head_kb(x)", r"f_{kb} = \mathrm{head}_{kb}\left(x\right)"),
        ("w = max(W g(x) / T)", r"w = \mathrm{max}\left(\frac{W\,g\left(x\right)}{T}\right)"),
        ("L = (y - m) / sqrt(m B) - 1", r"L = \frac{y - m}{\sqrt{m\,B}} - 1"),
        ("s = abs(p - q) / (H(r) n)", r"s = \frac{\left|p - q\right|}{H\left(r\right)\,n}"),
        ("x <- x * g^2", r"x \leftarrow x\,\cdot\,g^2"),
        ("  a  = b\n  cd = e", r"\begin{aligned}a &= b \\ \mathrm{cd} &= e\end{aligned}"),
    ],
)
def test_equations_of_docstrings_become_latex(text, latex):
    assert equations.to_latex(text) == latex
