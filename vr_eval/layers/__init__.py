"""Pure tensor code: windows on the patch grid and attention inside them. Imports torch and nothing of vr_eval."""
