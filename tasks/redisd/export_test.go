package redisd

// Kind returns what answers.
func (s *Server) Kind() Kind { return s.kind }

// MachineMemory is machineMemory.
var MachineMemory = machineMemory

// ContainerOf is containerMemory.
var ContainerOf = containerMemory
