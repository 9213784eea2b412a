"""docs/configuration.md says what the schema says."""

from scripts.reference import FILE, reference


def test_reference_is_up_to_date():
    assert FILE.read_text() == reference(), "run: uv run python -m scripts.reference"
