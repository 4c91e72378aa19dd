// A KMIP server on OVHcloud's library: its TTLV codec, its messages, its batches with the ID placeholder, its versions
// and Go's TLS, so that the tests have a judge whose authors know neither PyKMIP nor our double. The library keeps no
// objects; this file does, in memory, as KMIP 1.4 says.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/kmipserver"
	"github.com/ovh/kmip-go/payloads"
)

const version = "0.5.0"

// source is a digest of the files that the program was built from, set by the linker.
var source = "unknown"

// managed is an object of the store.
type managed struct {
	uid        string
	kind       kmip.ObjectType
	object     kmip.Object
	attributes []kmip.Attribute
	state      kmip.State
	revocation *kmip.RevocationReason
	date       time.Time
}

// store keeps the objects, in the order of their registration.
type store struct {
	mutex    sync.Mutex
	objects  []*managed
	keepLast bool
	limit    int
	shuffle  bool
	pace     int
	start    time.Time
}

// now returns the time of the server's clock, which goes pace times as fast as real time.
func (s *store) now() time.Time {
	return s.start.Add(time.Since(s.start) * time.Duration(s.pace))
}

// stamped sets the time stamp of each response to the server's clock.
type stamped struct {
	store *store
	inner kmipserver.RequestHandler
}

func (s stamped) HandleRequest(ctx context.Context, req *kmip.RequestMessage) *kmip.ResponseMessage {
	// A time before the request is executed: an object that it registers is not older than its time stamp.
	now := s.store.now()
	response := s.inner.HandleRequest(ctx, req)
	response.Header.TimeStamp = now
	return response
}

func failure(reason kmip.ResultReason, text string) error {
	return kmipserver.Errorf(reason, "%s", text)
}

// find returns the object that a request names, or else the one of the item before in its batch.
func (s *store) find(ctx context.Context, uid string) (*managed, error) {
	uid, err := kmipserver.GetIdOrPlaceholder(ctx, uid)
	if err != nil {
		return nil, failure(kmip.ResultReasonItemNotFound, err.Error())
	}
	for _, object := range s.objects {
		if object.uid == uid {
			return object, nil
		}
	}
	return nil, kmipserver.ErrItemNotFound
}

func (s *store) register(ctx context.Context, req *payloads.RegisterRequestPayload) (*payloads.RegisterResponsePayload, error) {
	if req.ObjectType != kmip.ObjectTypeSymmetricKey && req.ObjectType != kmip.ObjectTypeSecretData {
		return nil, failure(kmip.ResultReasonInvalidField, "this type of object is not supported")
	}
	if key, ok := req.Object.(*kmip.SymmetricKey); ok {
		material, err := key.KeyMaterial()
		if err != nil {
			return nil, failure(kmip.ResultReasonInvalidField, err.Error())
		}
		if length := int(key.KeyBlock.CryptographicLength); length != 8*len(material) {
			return nil, failure(kmip.ResultReasonInvalidField, "the length of the key is wrong")
		}
	}
	object := &managed{
		uid:    uuid.NewString(),
		kind:   req.ObjectType,
		object: req.Object,
		state:  kmip.StatePreActive,
		date:   s.now().Truncate(time.Second),
	}
	for _, attribute := range req.TemplateAttribute.Attribute {
		if s.keepLast {
			same := func(other kmip.Attribute) bool { return other.AttributeName == attribute.AttributeName }
			object.attributes = slices.DeleteFunc(object.attributes, same)
		}
		object.attributes = append(object.attributes, attribute)
	}
	s.objects = append(s.objects, object)
	kmipserver.SetIdPlaceholder(ctx, object.uid)
	return &payloads.RegisterResponsePayload{UniqueIdentifier: object.uid}, nil
}

// described returns all attributes of an object, with an index for each value but the first of one name.
func (object *managed) described() []kmip.Attribute {
	all := slices.Clone(object.attributes)
	add := func(name kmip.AttributeName, value any) {
		all = append(all, kmip.Attribute{AttributeName: name, AttributeValue: value})
	}
	add(kmip.AttributeNameUniqueIdentifier, object.uid)
	add(kmip.AttributeNameObjectType, object.kind)
	add(kmip.AttributeNameState, object.state)
	add(kmip.AttributeNameInitialDate, object.date)
	if object.revocation != nil {
		add(kmip.AttributeNameRevocationReason, *object.revocation)
	}
	counts := map[kmip.AttributeName]int32{}
	for i := range all {
		count := counts[all[i].AttributeName]
		all[i].AttributeIndex = nil
		if count > 0 {
			all[i].AttributeIndex = &count
		}
		counts[all[i].AttributeName] = count + 1
	}
	return all
}

// fits reports whether an object has all these attributes. One Initial Date is that second, two are a range.
func (object *managed) fits(wanted []kmip.Attribute) bool {
	own := object.described()
	var dates []time.Time
	for _, attribute := range wanted {
		if date, ok := attribute.AttributeValue.(time.Time); ok && attribute.AttributeName == kmip.AttributeNameInitialDate {
			dates = append(dates, date)
			continue
		}
		same := func(other kmip.Attribute) bool {
			return other.AttributeName == attribute.AttributeName &&
				reflect.DeepEqual(other.AttributeValue, attribute.AttributeValue)
		}
		if !slices.ContainsFunc(own, same) {
			return false
		}
	}
	if len(dates) == 0 {
		return true
	}
	first, last := slices.MinFunc(dates, time.Time.Compare), slices.MaxFunc(dates, time.Time.Compare)
	return !object.date.Before(first) && !object.date.After(last)
}

func (s *store) locate(ctx context.Context, req *payloads.LocateRequestPayload) (*payloads.LocateResponsePayload, error) {
	found := []string{}
	for _, object := range s.objects {
		if object.fits(req.Attribute) {
			found = append(found, object.uid)
		}
	}
	if s.shuffle {
		rand.Shuffle(len(found), func(i, j int) { found[i], found[j] = found[j], found[i] })
	}
	total := int32(len(found))
	found = found[min(int(req.OffsetItems), len(found)):]
	if req.MaximumItems > 0 {
		found = found[:min(int(req.MaximumItems), len(found))]
	}
	response := &payloads.LocateResponsePayload{LocatedItems: &total}
	if s.limit > 0 && len(found) > s.limit {
		// A server that cuts its answer short says nothing of it.
		found = found[:s.limit]
		response.LocatedItems = nil
	}
	kmipserver.ClearIdPlaceholder(ctx)
	if len(found) == 1 {
		kmipserver.SetIdPlaceholder(ctx, found[0])
	}
	response.UniqueIdentifier = found
	return response, nil
}

func (s *store) get(ctx context.Context, req *payloads.GetRequestPayload) (*payloads.GetResponsePayload, error) {
	object, err := s.find(ctx, req.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	return &payloads.GetResponsePayload{ObjectType: object.kind, UniqueIdentifier: object.uid, Object: object.object}, nil
}

func (s *store) attributes(ctx context.Context, req *payloads.GetAttributesRequestPayload) (*payloads.GetAttributesResponsePayload, error) {
	object, err := s.find(ctx, req.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	unwanted := func(attribute kmip.Attribute) bool {
		return len(req.AttributeName) > 0 && !slices.Contains(req.AttributeName, attribute.AttributeName)
	}
	attributes := slices.DeleteFunc(object.described(), unwanted)
	return &payloads.GetAttributesResponsePayload{UniqueIdentifier: object.uid, Attribute: attributes}, nil
}

func (s *store) modify(ctx context.Context, req *payloads.ModifyAttributeRequestPayload) (*payloads.ModifyAttributeResponsePayload, error) {
	object, err := s.find(ctx, req.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	index := int32(0)
	if req.Attribute.AttributeIndex != nil {
		index = *req.Attribute.AttributeIndex
	}
	for i := range object.attributes {
		if object.attributes[i].AttributeName != req.Attribute.AttributeName {
			continue
		}
		if index == 0 {
			object.attributes[i].AttributeValue = req.Attribute.AttributeValue
			return &payloads.ModifyAttributeResponsePayload{UniqueIdentifier: object.uid, Attribute: req.Attribute}, nil
		}
		index--
	}
	return nil, failure(kmip.ResultReasonItemNotFound, "the object has no such attribute")
}

func (s *store) activate(ctx context.Context, req *payloads.ActivateRequestPayload) (*payloads.ActivateResponsePayload, error) {
	object, err := s.find(ctx, req.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	if object.state != kmip.StatePreActive {
		return nil, failure(kmip.ResultReasonPermissionDenied, "the object is not pre-active")
	}
	object.state = kmip.StateActive
	return &payloads.ActivateResponsePayload{UniqueIdentifier: object.uid}, nil
}

func (s *store) revoke(ctx context.Context, req *payloads.RevokeRequestPayload) (*payloads.RevokeResponsePayload, error) {
	object, err := s.find(ctx, req.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	if req.RevocationReason.RevocationReasonCode == kmip.RevocationReasonCodeKeyCompromise {
		object.state = kmip.StateCompromised
	} else if object.state == kmip.StateActive {
		object.state = kmip.StateDeactivated
	} else {
		return nil, failure(kmip.ResultReasonIllegalOperation, "the object is not active")
	}
	object.revocation = &req.RevocationReason
	return &payloads.RevokeResponsePayload{UniqueIdentifier: object.uid}, nil
}

func (s *store) destroy(ctx context.Context, req *payloads.DestroyRequestPayload) (*payloads.DestroyResponsePayload, error) {
	object, err := s.find(ctx, req.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	if object.state == kmip.StateActive {
		return nil, failure(kmip.ResultReasonPermissionDenied, "the object is active")
	}
	s.objects = slices.DeleteFunc(s.objects, func(other *managed) bool { return other == object })
	return &payloads.DestroyResponsePayload{UniqueIdentifier: object.uid}, nil
}

func (s *store) query(context.Context, *payloads.QueryRequestPayload) (*payloads.QueryResponsePayload, error) {
	return &payloads.QueryResponsePayload{
		Operations: []kmip.Operation{
			kmip.OperationRegister, kmip.OperationLocate, kmip.OperationGet, kmip.OperationGetAttributes,
			kmip.OperationModifyAttribute, kmip.OperationActivate, kmip.OperationRevoke, kmip.OperationDestroy,
			kmip.OperationQuery, kmip.OperationDiscoverVersions,
		},
		ObjectType:           []kmip.ObjectType{kmip.ObjectTypeSymmetricKey, kmip.ObjectTypeSecretData},
		VendorIdentification: "kmip-go " + version,
	}, nil
}

// route adds a handler that no other handler runs beside.
func route[Req, Resp kmip.OperationPayload](executor *kmipserver.BatchExecutor, s *store, operation kmip.Operation, handle func(context.Context, Req) (Resp, error)) {
	executor.Route(operation, kmipserver.HandleFunc(func(ctx context.Context, req Req) (Resp, error) {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		return handle(ctx, req)
	}))
}

func main() {
	showVersion := flag.Bool("version", false, "print the version of the library")
	address := flag.String("listen", "127.0.0.1:0", "address")
	pki := flag.String("pki", ".", "folder with server.crt, server.key and ca.crt")
	s := &store{start: time.Now()}
	flag.BoolVar(&s.keepLast, "keep-last", false, "keep the last value of each attribute only")
	flag.IntVar(&s.limit, "limit", 0, "return so many identifiers at most, without a total")
	flag.BoolVar(&s.shuffle, "shuffle", false, "return identifiers in another order each time")
	flag.IntVar(&s.pace, "pace", 1, "let the clock go so many times as fast as real time")
	flag.Parse()
	if *showVersion {
		fmt.Println(version, source)
		return
	}
	if err := serve(s, *address, *pki); err != nil {
		log.Fatal(err)
	}
}

func serve(s *store, address, pki string) error {
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	certificate, err := tls.LoadX509KeyPair(pki+"/server.crt", pki+"/server.key")
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(pki + "/ca.crt")
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	executor := kmipserver.NewBatchExecutor()
	route(executor, s, kmip.OperationRegister, s.register)
	route(executor, s, kmip.OperationLocate, s.locate)
	route(executor, s, kmip.OperationGet, s.get)
	route(executor, s, kmip.OperationGetAttributes, s.attributes)
	route(executor, s, kmip.OperationModifyAttribute, s.modify)
	route(executor, s, kmip.OperationActivate, s.activate)
	route(executor, s, kmip.OperationRevoke, s.revoke)
	route(executor, s, kmip.OperationDestroy, s.destroy)
	route(executor, s, kmip.OperationQuery, s.query)
	listener, err := tls.Listen("tcp", address, &tls.Config{
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    roots,
		MinVersion:   tls.VersionTLS12,
	})
	if err != nil {
		return err
	}
	fmt.Println("listening on", listener.Addr())
	return kmipserver.NewServer(listener, stamped{s, executor}).Serve()
}
