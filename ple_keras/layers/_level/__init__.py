"""Parts of a level: wiring, experts, gate statistics, computation and observation."""
