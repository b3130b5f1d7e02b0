"""What operators need beside the running managers: comparing the broker's positions with our records.

May import `core`, `broker`, `store`, `config`. Shares the code of the application, so that a tool never tells another
story than the manager (F146). Nothing here changes a position.
"""
