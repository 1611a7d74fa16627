"""What a machine has and what a grid still needs: `vr-eval doctor` says it, `vr-eval fetch` downloads it."""
