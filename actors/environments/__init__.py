"""Vector environments of one shape, whatever plays behind them."""
