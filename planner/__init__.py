"""From measurements to a claim: profiles, predictions, search and cost. All pure."""
