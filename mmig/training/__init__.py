"""The training module and what it rests on: optimisers, draws, losses counted, ranks that agree."""
