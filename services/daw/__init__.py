"""Writers of files for DAWs, independent of jobs and storage."""
