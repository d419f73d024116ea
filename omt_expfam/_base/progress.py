"""Progress bars for long runs."""

import tqdm


def progress_bar(total: int, description: str, progress: bool | None) -> tqdm.tqdm:
    """A bar on standard error that shows itself after two seconds.

    Args:
        total: Number of steps.
        description: What is running.
        progress: Show (True) or hide (False); by default shown on a terminal only.
    """
    disable = None if progress is None else not progress
    return tqdm.tqdm(total=total, desc=description, disable=disable, delay=2.0, leave=False)
