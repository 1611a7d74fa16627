"""What the documentation says and the code knows: keys, methods, costs, results. None of it is typed or committed."""
