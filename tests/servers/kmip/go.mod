module testservers/kmip

go 1.26.0

require (
	github.com/google/uuid v1.6.0
	github.com/ovh/kmip-go v0.5.0
)
