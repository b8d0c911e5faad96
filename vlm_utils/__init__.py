"""Helpers of a course that builds a multi-image vision-language model.

Each lesson has a room of its name:

    01_architecture      architecture/
    02_datasets          datasets/
    03_collate           collate
    04_training          training/
    05_evaluation        evaluation/
    06_memory_cleanup    memory
    07_time_series       time_series/
    08_cross_attention   cross_attention/
    10_scaling_out       scaling/

What several lessons import stands beside them: profiles, loading, answering, plots, widgets. What
only instructors and authors need is in folders named for what it is: check/ (verdicts on the
exercises), course/ (running and checking lessons), tiny_earth/ (the embedded world), sources/
(images and models from files and the hub), making/ (how data/ was made).
"""

__version__ = "0.1.0"
