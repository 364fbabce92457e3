"""Questions about a node's state: who pays for what, what a call cost, what a refusal means, what tools would say."""
