"""Training of heads: layers that classify, measure or rank texts, on a model or on an LSTM from scratch."""
