"""Run folders to one self-contained HTML page; studies and tables of scores to a report that compares their runs.

Pages need the extra ``report``; what other parts of this package read needs none.
"""
