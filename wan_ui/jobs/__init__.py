"""The queue of jobs: database, service, worker, downloads and gallery."""
