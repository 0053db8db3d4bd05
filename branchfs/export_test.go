package branchfs

// SetDevice makes Mount use another FUSE device than /dev/fuse.
func (o *Options) SetDevice(path string) { o.device = path }
