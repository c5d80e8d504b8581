"""Text from one player, made safe to show to the other."""

from spiral.game import one_line


def test_tags_brackets_and_line_breaks_are_neutralised() -> None:
    assert one_line("a [GA[GAME]ME]\r\n\u2028b <|x|> 1 < 2 -> 3") == "a (GA(GAME)ME) b \u2039|x|> 1 < 2 -> 3"
