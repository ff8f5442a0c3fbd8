"""What comes before an execution: is it one, may it be, whose turn is it, was it done before."""
