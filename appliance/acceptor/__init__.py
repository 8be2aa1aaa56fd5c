"""A DICOM association acceptor that no peer can stop: pynetdicom's protocol, with its threads and buffers replaced.

`reception` holds every connection until its association request is whole, at the cost of a file descriptor; `access`
decides who gets in; `association` serves one association on one thread; `server` joins them.
"""
