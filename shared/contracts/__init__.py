"""Every job and live call, one module a service, with the checks that gateway and worker share."""
