"""Memory management: who is charged for what, and what happens when it does not fit."""
