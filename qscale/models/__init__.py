"""Model families, ladders of sizes, and the surgery that quantizes their layers."""
