"""Crash tests: processes that train are killed at random moments, resumed, and compared with unbroken ones."""
