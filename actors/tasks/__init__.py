"""Tasks of few-shot learning: where they come from, and how they are drawn."""
