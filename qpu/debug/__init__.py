"""Tools to look inside of a launch: sanitizer, records, debugger, profile, rehearsal, explorer.

They are observers of the reference engine; launches without them do not notice that they exist.
"""
