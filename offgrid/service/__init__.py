"""How the server runs as a service of the system: messages to systemd, and the files of services.

:mod:`~offgrid.service.notify` speaks systemd's protocol, :mod:`~offgrid.service.unit` writes the
unit file, and :mod:`~offgrid.service.plist` the file for launchd.
"""
