package v1

import (
	"errors"
	"maps"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// patch is what PATCH /v1/jobs/{id} wants changed. A member that is null has its
// default: normal priority, no deadline, no metadata.
type patch struct {
	priority *tasks.Priority
	deadline *time.Time
	none     bool               // of the metadata is kept
	metadata map[string]*string // pairs to set; nil: to take away
}

// EditJob is PATCH /v1/jobs/{id}, a merge patch (RFC 7396).
func (a *API) EditJob(c echo.Context) error {
	id, err := objectID(c, "job_")
	if err != nil {
		return err
	}
	body, err := wire.Read(c.Response(), c.Request(), maxPatchBody, jsonType, "application/merge-patch+json")
	if err != nil {
		return err
	}
	p, err := readPatch(body)
	if err != nil {
		return wire.Told(err)
	}
	tenant := a.c.Caller(c).Tenant
	job, err := a.c.Jobs.Edit(c.Request().Context(), tenant, id, func(j *tasks.Job) error {
		if p.priority != nil {
			if err := a.c.Desk.Lane(tenant, &tasks.Job{Priority: *p.priority}); err != nil {
				return err
			}
		}
		return p.apply(j, a.c.Now())
	})
	if errors.Is(err, tasks.ErrConflict) {
		return fault.Fail(fault.Conflict, `The job runs, or has ended: "priority", "deadline" and "metadata" can be changed while it waits.`)
	}
	if err != nil {
		return err
	}
	return a.writeJob(c, &job)
}

// readPatch fails with a *fault.Fault whose detail names the member at fault.
func readPatch(body []byte) (p patch, err error) {
	r, err := jsonread.New(body)
	if err != nil {
		return p, err
	}
	d := decoder{r}
	err = d.Object(func(name string) (err error) {
		null := d.Kind() == 'n'
		switch name {
		case "priority":
			normal := tasks.Normal
			if p.priority = &normal; !null {
				*p.priority, err = d.priority(name)
				return err
			}
		case "deadline":
			if p.deadline = new(time.Time); !null {
				*p.deadline, err = d.Moment(name)
				return err
			}
		case "metadata":
			if p.none = null; !null {
				p.metadata, err = d.pairs(name)
				return err
			}
		default:
			return fault.Fail(fault.InvalidRequest, `The member %s cannot be changed: "priority", "deadline" and "metadata" can, while the job waits.`, jsonread.Clip(name))
		}
		return d.Skip()
	})
	return p, err
}

// pairs consumes metadata of which null takes a pair away.
func (d *decoder) pairs(name string) (map[string]*string, error) {
	if k := d.Kind(); k != '{' {
		return nil, d.Wrong(k, name, "an object of strings")
	}
	pairs := map[string]*string{}
	_, err := d.Members(func(key string) error {
		if d.Kind() == 'n' && utf8.RuneCountInString(key) <= maxMetadataKey && len(pairs) < 2*maxMetadata {
			pairs[key] = nil
			return d.Skip()
		}
		value, err := d.pair(key)
		if err == nil && len(pairs) == 2*maxMetadata {
			err = fault.Fail(fault.InvalidRequest, `The member "metadata" must not change more than %d pairs.`, 2*maxMetadata)
		}
		pairs[key] = &value
		return err
	})
	return pairs, err
}

// apply changes a job, whose metadata is not written to.
func (p *patch) apply(j *tasks.Job, now time.Time) error {
	if p.priority != nil {
		j.Priority = *p.priority
	}
	if p.deadline != nil {
		j.Deadline = *p.deadline
		if err := checkTimes(j, now); err != nil {
			return err
		}
	}
	if p.none {
		j.Metadata = nil
	}
	if p.metadata == nil {
		return nil
	}
	merged := maps.Clone(j.Metadata)
	if merged == nil {
		merged = map[string]string{}
	}
	for key, value := range p.metadata {
		if value == nil {
			delete(merged, key)
		} else {
			merged[key] = *value
		}
	}
	if len(merged) > maxMetadata {
		return fault.Fail(fault.InvalidRequest, `With this the member "metadata" would have %d pairs; at most %d are kept.`, len(merged), maxMetadata)
	}
	j.Metadata = merged
	return nil
}
