"""Where experience comes from: environments, unroll servers, and the pool of Ray actors."""
