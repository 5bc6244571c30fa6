"""One run in several processes: launched by torchrun's agent, heard through the first of them.

The first is the ordinary child; the others' frames go into files, where the agent finds the error of the first that
failed. All hold the read end of one pipe and end when its writer does, so a killed worker leaves none behind.
"""
