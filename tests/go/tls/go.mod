module testgo/tls

go 1.26.0
