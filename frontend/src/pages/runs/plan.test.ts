import { expect, it } from 'vitest'
import { readPlan } from './plan'

it('reads actions and conflicts, conflicts first', () => {
  expect(readPlan({
    actions: [{ action: 'upload', on: 'server', path: '/a', from: null, size: 3 }, { action: 'move', on: 'device', path: '/new', from: '/old', size: null }],
    conflicts: [{ path: '/c', collision: 'both_changed', outcome: { keeps_both: { winner: 'server', copy: '/c (conflict)' } } }, { path: '/d', outcome: { keeps: 'device' } }, { path: '/e', outcome: 'open' }],
    more_actions: 2, more_conflicts: 1,
  })).toEqual({
    items: [
      { word: 'conflict', path: '/c', kept: 'both', to: '/c (conflict)' }, { word: 'conflict', path: '/d', kept: 'device', to: undefined }, { word: 'conflict', path: '/e', kept: 'open', to: undefined },
      { word: 'upload', side: 'server', path: '/a', to: undefined, size: 3 }, { word: 'move', side: 'device', path: '/old', to: '/new', size: undefined },
    ],
    more: 3,
  })
})
it.each([undefined, null, 'x', [], { changes_on_server: 4 }])('finds no plan in %j', (value) => expect(readPlan(value)).toBeUndefined())
