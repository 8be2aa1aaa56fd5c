"""A second package reads the same images, for comparison only: never shown as a result, never sent, never in the way.

`store` keeps what it says, apart from results. `runner` is the process that reads, while nothing else waits.
`comparison` counts agreement and, where readers have said what is true, who is right more often; `report` says so.
`promotion` lets it take over, with the criteria met and a named person's signature, and keeps the evidence.
"""
