"""Names that the engine's processes and servesim share; imports nothing."""

#: Environment variables: the file records go to, and the cores that the engine is pinned to.
RECORD, CORES = "SERVESIM_RECORD", "SERVESIM_ENGINE_CORES"
#: What the client's answers begin with.
MARK = "SERVESIM "
