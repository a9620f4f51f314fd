"""Text goes through packing unchanged, whatever is in it."""

from hypothesis import given
from hypothesis import strategies as st

from harness.report.packed import packed, packed_plotly, unpacked


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_comes_back_and_has_no_character_of_markup(text):
    made = packed(text)
    assert unpacked(made) == text
    assert not set(made) & set("<>&-'\"")
    assert packed(text) == made


def test_the_chart_library_is_packed_to_less_than_half():
    made = packed_plotly()
    assert "plotly" in unpacked(made)[:2000]
    assert len(made) < 0.5 * len(unpacked(made))
