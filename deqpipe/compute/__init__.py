"""How f is computed: what it costs, in which precision, and which faster ways to the same numbers are taken."""
