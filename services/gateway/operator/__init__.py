"""What operators alone see: gauges, queues, and how many workers a pool should have."""
