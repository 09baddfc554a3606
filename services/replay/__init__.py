"""`weir policy replay`: what another policy would have made of what has landed. It writes nothing anywhere.

`plan` says what is asked, `stream` reads, `twice` resolves with the real join under both policies, `compare` counts
what differs (pure), `show` prints.
"""
