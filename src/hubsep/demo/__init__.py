# SPDX-License-Identifier: Apache-2.0
"""What the Spaces share: limits, decoding in a child process, pictures, cards of results, temporary files.

The apps in `spaces/` say what a page looks like; what a public page needs beside that stands here. `page` and
`results` need the extra `demo`; the decoder imports nothing of either.
"""
