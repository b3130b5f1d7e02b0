"""Fixtures and small fakes shared by the tests."""
