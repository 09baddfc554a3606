"""What is counted: integer ledgers per pane that merge and retract exactly, and the metrics read from them."""
