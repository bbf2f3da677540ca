"""What every request shares: routes, parameters, problems, tokens, limits."""
