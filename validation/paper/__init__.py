"""The measured figures of the LLMServingSim 2.0 paper, one module each."""
