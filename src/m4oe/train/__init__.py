"""Training: phases of build, load, freeze, fit. Lightning lives in this room alone."""
